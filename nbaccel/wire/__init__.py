"""What crosses the border between the kernel and its workers: named messages, a codec for functions and data, a channel."""
