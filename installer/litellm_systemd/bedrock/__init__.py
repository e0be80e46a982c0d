"""What is known of Amazon Bedrock without asking it: ids, regions, models, and how it says no. Pure."""
