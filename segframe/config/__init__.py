"""Config schema, validation and instantiation."""
