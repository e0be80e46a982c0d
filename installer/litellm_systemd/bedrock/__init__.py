"""Knowledge about Amazon Bedrock that needs no request: ids, regions, quotas, and its error messages. Pure."""
