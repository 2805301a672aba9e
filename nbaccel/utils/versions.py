"""What training code may import from `nbaccel.utils.versions`; nothing inside nbaccel does."""

from nbaccel.runtime.versions import STR_OPERATION_TO_FUNC, compare_versions, is_torch_version

__all__ = ["STR_OPERATION_TO_FUNC", "compare_versions", "is_torch_version"]
