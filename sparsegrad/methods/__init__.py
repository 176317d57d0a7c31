"""Learning methods: how the gradient of an online loss is found."""
