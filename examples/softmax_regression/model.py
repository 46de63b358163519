"""Softmax regression, and its training by plain gradient descent."""

import time

import numpy as np

from rnn_serving.dataset import IMAGE_SIZE, NUM_CLASSES
from rnn_serving.quiet_tensorflow import tf

NUM_PIXELS = IMAGE_SIZE**2
# As in the classic tutorials; the loss is the sum over a batch, so the rate is low.
BATCH_SIZE, LEARNING_RATE = 50, 0.01


class SoftmaxRegression(tf.Module):
    """One weight for each pixel and class: float32 images (N, 784) to scores (N, 10) that add up to 1."""

    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(tf.zeros((NUM_PIXELS, NUM_CLASSES)), name="weights")
        self.biases = tf.Variable(tf.zeros(NUM_CLASSES), name="biases")

    def __call__(self, images):
        """Return the scores, the softmax of the logits."""
        return tf.nn.softmax(self.logits(images))

    def logits(self, images):
        """Return the logits, float32 (N, 10)."""
        return tf.matmul(images, self.weights) + self.biases


def train(split, iterations, seed):
    """Return a model after `iterations` batches of a `Split`, which is shuffled by `seed` in every epoch."""
    model, optimizer = SoftmaxRegression(), tf.optimizers.SGD(LEARNING_RATE)

    @tf.function(autograph=False)
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model.logits(images))
            loss = tf.reduce_sum(losses)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    batches = tf.data.Dataset.from_tensor_slices((flatten(split.images), split.labels.astype(np.int32)))
    batches = batches.shuffle(len(split), seed).repeat().batch(BATCH_SIZE)
    started = time.perf_counter()
    for images, labels in batches.take(iterations):
        train_step(images, labels)
    print(f"{iterations} iterations in {time.perf_counter() - started:.1f} s")
    return model


def flatten(images):
    """Return images, float32 (N, 28, 28), as rows of pixels, (N, 784)."""
    return images.reshape(-1, NUM_PIXELS)
