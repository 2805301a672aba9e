"""One worker process: how it starts, serves, runs a function or a cell, and shows what that prints and draws."""
