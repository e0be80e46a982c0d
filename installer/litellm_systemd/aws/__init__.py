"""AWS as this host and this account have it. The only package that uses botocore."""
