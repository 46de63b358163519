"""What is measured and against what. Each benchmark is a command, which starts and stops the servers that it needs.

    python -m benchmarks.compare           the servers, over the number of callers: scripts/compare_latency.py
    python -m benchmarks.breakdown         where the time of one request goes, for each server
    python -m benchmarks.choices           what each choice costs: how to call the model, encode, connect, batch
    python -m benchmarks.batches           images per second over the images in a request
    python -m benchmarks.flask_endpoint    the Flask endpoint against the article's Flask server
    python -m benchmarks.model_server      the model server against the article's Flask server
    python -m benchmarks.training          the article's training recipe against ours
    python -m benchmarks.http_worker       what each piece of the HTTP worker brings
    python -m benchmarks.cross_check       our load generator against wrk, h2load and autocannon
    python -m benchmarks.results           not a measurement: README's table and picture from docs/results/

The baseline of all servers is `python -m benchmarks.article_flask_server`.
"""
