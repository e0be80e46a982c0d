resource "aws_lb" "gateway" {
  #checkov:skip=CKV_AWS_91:The gateway logs each request in its journal
  #checkov:skip=CKV2_AWS_28:Clients are programs with a key - a firewall for web pages cuts their prompts
  name                       = var.name
  load_balancer_type         = "application"
  internal                   = var.scheme == "internal"
  subnets                    = var.balancer_subnets
  security_groups            = [aws_security_group.balancer.id]
  drop_invalid_header_fields = true
  enable_deletion_protection = true
  # Longer than request_timeout of the configuration (600), or a model that thinks for long becomes a 504.
  idle_timeout = 620
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.gateway.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.gateway.arn
  }
}

resource "aws_lb_target_group" "gateway" {
  #checkov:skip=CKV_AWS_378:Load balancer and instances are in the same private subnets, and the listener is HTTPS
  name        = var.name
  vpc_id      = var.vpc_id
  protocol    = "HTTP"
  port        = local.port
  target_type = "instance"
  # For the streams of an instance that leaves: at least DEREGISTRATION_DELAY and DRAIN_TIMEOUT together.
  deregistration_delay = 640
  slow_start           = 60

  health_check {
    path                = "/health/readiness"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
    matcher             = "200"
  }
}
