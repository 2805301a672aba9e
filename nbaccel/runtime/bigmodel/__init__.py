"""Models larger than a device: made without memory, spread over devices, main memory and disk."""
