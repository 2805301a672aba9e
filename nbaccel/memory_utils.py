"""What training code may import from `nbaccel.memory_utils`; nothing inside nbaccel does."""

from nbaccel.runtime.memory import (
    clear_device_cache,
    find_executable_batch_size,
    release_memory,
    should_reduce_batch_size,
)

__all__ = ["clear_device_cache", "find_executable_batch_size", "release_memory", "should_reduce_batch_size"]
