"""What daily use from Python needs around the engine: words, rows, interrupts, the course of a fit, its display."""
