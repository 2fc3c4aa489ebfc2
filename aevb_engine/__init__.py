"""Auto-encoding variational Bayes on a small array engine (Kingma & Welling 2013; Lin & Xu 2018)."""
