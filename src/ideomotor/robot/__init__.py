"""Arms as tables of numbers, kinematics, control, and the protocol that real and simulated robots share. numpy only."""
