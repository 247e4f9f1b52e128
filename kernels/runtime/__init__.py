"""What runs compiled kernels: the thread pool, the allocator and executables."""
