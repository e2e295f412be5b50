"""Code that several commands share: tables, progress, completion, and reaching a container."""
