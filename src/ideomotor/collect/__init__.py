"""Make datasets: expert demonstrations, labelled scenes, corrections of a policy. numpy only; policies run in a child process."""
