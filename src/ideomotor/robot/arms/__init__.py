"""robot/arms."""
