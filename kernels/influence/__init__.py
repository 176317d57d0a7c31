"""The numeric phase: values of J, by plain CSR and by panels, and the lowering to panels."""
