"""A P4 switch behind P4Runtime, as a target of the controller."""
