"""What the application serves and how, validated: the command's flags, and the `args` of a Serve config file."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """The settings of one application; the description of each is also the help of its flag."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_base_path: str = Field(description="directory of versions, at the same path on every node, or a URI")
    model_name: str = Field("mnist", description="name of the model")
    min_replicas: int = Field(1, ge=1, description="replicas without load")
    max_replicas: int | None = Field(None, ge=1, description="replicas under load (default: as many as without)")
    target_ongoing_requests: float = Field(
        16, gt=0, allow_inf_nan=False, description="requests per replica that autoscaling aims at"
    )
    cpus_per_replica: float = Field(1, gt=0, allow_inf_nan=False, description="cores that Ray reserves for a replica")
    max_ongoing_requests: int = Field(64, ge=1, description="requests that a replica takes at a time")
    max_queued_requests: int = Field(256, ge=1, description="requests that may wait in a proxy; it refuses others")
    request_timeout: float = Field(10.0, gt=0, allow_inf_nan=False, description="deadline of a request, s")
    batching: str = Field("auto", pattern="^(auto|on|off)$", description="auto: for models whose rows are independent")
    max_batch_size: int = Field(32, ge=1, description="maximum rows of a batch")
    batch_timeout_micros: int = Field(0, ge=0, description="wait for a batch to fill, us")

    @model_validator(mode="after")
    def _check_replicas(self):
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}; expected at least {self.min_replicas}, as min_replicas"
            )
        return self

    def deployment_options(self):
        """Return the options of the deployment that these settings ask for."""
        if self.max_replicas in (None, self.min_replicas):
            replicas = {"num_replicas": self.min_replicas}
        else:
            replicas = {
                "autoscaling_config": {
                    "min_replicas": self.min_replicas,
                    "max_replicas": self.max_replicas,
                    "target_ongoing_requests": self.target_ongoing_requests,
                }
            }
        return replicas | {
            "max_ongoing_requests": self.max_ongoing_requests,
            "max_queued_requests": self.max_queued_requests,
            "ray_actor_options": {"num_cpus": self.cpus_per_replica},
            # How soon a replica whose model has gone is replaced, and how long one that leaves may take to answer.
            "health_check_period_s": 2,
            "health_check_timeout_s": 10,
            "graceful_shutdown_wait_loop_s": 0.5,
            "graceful_shutdown_timeout_s": self.request_timeout,
        }
