"""The embedded tabletop: MuJoCo world, ray renderer, tasks, scripted expert, and the 10 Hz environment around them."""
