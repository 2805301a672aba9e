"""What crosses the border between the kernel and its workers: named messages, a codec, a channel."""
