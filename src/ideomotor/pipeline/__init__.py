"""Raw observations to network input, network output to raw actions; one file a family of networks."""
