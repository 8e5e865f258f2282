"""From a request to pictures. This wing knows no training."""
