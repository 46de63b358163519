"""The comparison of servers: same model, same images, same thread limit, every answer checked, and its report."""
