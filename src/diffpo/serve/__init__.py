"""A server on this machine: an endpoint in OpenAI's format, and a page that shows tokens as they are committed."""
