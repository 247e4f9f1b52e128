"""What is done to a program before its memory is planned. A pass takes a `Program` and changes its steps; no pass changes a bit of what
it computes."""
