output "address" {
  description = "The name of the load balancer. Point the name of the certificate at it (CNAME, or an alias in Route 53)."
  value       = aws_lb.gateway.dns_name
}

output "zone" {
  description = "Its hosted zone, for an alias in Route 53."
  value       = aws_lb.gateway.zone_id
}

output "key" {
  description = "Prints the key for clients."
  value       = "aws secretsmanager get-secret-value --region ${local.region} --secret-id ${aws_secretsmanager_secret.master_key.arn} --query SecretString --output text"
}

output "instances" {
  description = "Lists the instances and their state."
  value       = "aws autoscaling describe-auto-scaling-groups --region ${local.region} --auto-scaling-group-names ${var.name} --query 'AutoScalingGroups[].Instances[].[InstanceId,AvailabilityZone,LifecycleState,HealthStatus]' --output text"
}
