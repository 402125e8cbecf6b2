"""Terms that :class:`ppvae.infer.Regularized` adds to an objective. Each runs model and guide as it likes."""
