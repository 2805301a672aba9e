"""The checks that `nbaccel test` runs in its workers; `python -m nbaccel.runtime.selftest FOLDER` is one worker."""
