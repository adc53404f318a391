"""Policy gradients: rollouts by the one engine, what each token is worth, REINFORCE to GRPO and PPO."""
