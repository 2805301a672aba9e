"""Configuration files: where they are, how they are read, with places, and written, with comments kept."""
