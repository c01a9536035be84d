"""The OpenAPI document and its page. Shapes are described here for readers, and made elsewhere."""
