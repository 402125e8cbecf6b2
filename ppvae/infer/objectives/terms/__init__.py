"""What `Regularized` adds to an objective: penalties that run model and guide as they like."""
