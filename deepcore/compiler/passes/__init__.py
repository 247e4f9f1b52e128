"""What is done to a program before its memory is planned. A pass changes a `Program`'s steps, and no bit of what they compute."""
