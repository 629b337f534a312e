"""Google Compute Engine: credentials, the API by way of Libcloud, what is said to it and what its answers mean."""
