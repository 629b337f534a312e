"""What the AWS driver is made of; :mod:`hedgeserve.drivers.aws` is the way in."""
