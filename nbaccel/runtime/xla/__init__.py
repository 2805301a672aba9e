"""What only torch_xla needs: its beginning in a process, cutting tensors among chips, watching its compiler."""
