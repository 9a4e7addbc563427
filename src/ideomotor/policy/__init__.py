"""Pipeline + network = policy: in this process (`local`), in a child process (`process`, `worker`); the chunk queue."""
