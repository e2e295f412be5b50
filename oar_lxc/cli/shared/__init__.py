"""What several commands share: tables, progress, completion, and the way into a container."""
