"""HTTP's door: what browsers, providers, load balancers and Prometheus reach."""
