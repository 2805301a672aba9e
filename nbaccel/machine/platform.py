"""Where this process runs: a pure function over what can be seen of the platform."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

from nbaccel.errors import ConfigError, nearest

OVERRIDE = "NBACCEL_PLATFORM"
"""The variable that settles the platform when its signals mislead."""

PLATFORMS = (
    "kaggle",
    "colab",
    "databricks",
    "sagemaker",
    "binder",
    "jupyterhub",
    "vscode",
    "jupyter",
    "terminal",
)


def detect_platform(
    environ: Mapping[str, str],
    exists: Callable[[str], bool],
    shell_module: str = "",
    shell_names: Container[str] = (),
) -> str:
    """Name the platform, the first of `PLATFORMS` whose signals are there.

    The order matters: Kaggle's images are made from Colab's, and Binder is a JupyterHub. KAGGLE_* variables alone say
    nothing: whoever downloads data sets has them.

    Args:
        environ: environment variables.
        exists: whether an absolute path exists.
        shell_module: module of the IPython shell's class, empty without a shell.
        shell_names: names in the shell's user namespace.

    Raises:
        ConfigError: NBACCEL_PLATFORM names no platform.
    """
    if environ.get(OVERRIDE):
        return _checked(environ[OVERRIDE])

    def given(*names: str) -> bool:
        return any(environ.get(name) for name in names)

    in_kernel = shell_module.startswith("ipykernel")
    in_terminal = shell_module.startswith("IPython.terminal")
    on_kaggle = given("KAGGLE_KERNEL_RUN_TYPE") or environ.get("ISTPUVM") == "1"
    on_colab = given("COLAB_RELEASE_TAG") or environ.get("VERTEX_PRODUCT") == "COLAB_ENTERPRISE"
    # A Jupyter server started from an editor's terminal inherits VSCODE_*; its kernels have JPY_SESSION_NAME as well.
    in_editor = in_kernel and given("VSCODE_PID", "VSCODE_CWD") and not given("JPY_SESSION_NAME")
    signals = {
        "kaggle": on_kaggle and exists("/kaggle/working"),
        "colab": on_colab or shell_module.startswith("google.colab"),
        "databricks": given("DATABRICKS_RUNTIME_VERSION"),
        "sagemaker": given("SAGEMAKER_APP_TYPE_LOWERCASE") or exists("/opt/ml/metadata/resource-metadata.json"),
        "binder": given("BINDER_LAUNCH_HOST", "BINDER_REPO_URL", "BINDER_REF_URL"),
        "jupyterhub": given("JUPYTERHUB_USER", "JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_API_TOKEN"),
        "vscode": in_editor or "__vsc_ipynb_file__" in shell_names,
        "jupyter": in_kernel or (not in_terminal and given("JPY_SESSION_NAME", "JPY_PARENT_PID")),
        "terminal": True,
    }
    return next(name for name in PLATFORMS if signals[name])


def _checked(written: str) -> str:
    name = written.strip().lower()
    if name not in PLATFORMS:
        place = f"from the variable {OVERRIDE}"
        raise ConfigError(f"platform={written!r}", place, ", ".join(PLATFORMS), nearest(name, PLATFORMS))
    return name
