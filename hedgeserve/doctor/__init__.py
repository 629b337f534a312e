"""What `hedgeserve doctor` looks at before money is spent: this machine, the clouds, other people's servers."""
