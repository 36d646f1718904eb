"""What is minimised: distances to teachers, losses of reinforcement learning and their weights, and how."""
