"""Why a shield sent something else than what was proposed."""

from enum import StrEnum


class Reason(StrEnum):
    """Reasons of interventions."""

    NONFINITE = "nonfinite"  # a number of proposal or state is NaN or infinite
    SHAPE = "shape"  # wrong shape or kind of array, or no proposal at all where one was due
    STALE = "stale"  # older than allowed, or from the future
    OUT_OF_ORDER = "out_of_order"  # its sequence number does not advance, or the clock went back
    JOINT_POSITION = "joint_position"
    JOINT_VELOCITY = "joint_velocity"
    ACCELERATION = "acceleration"
    JERK = "jerk"
    TOOL_SPEED = "tool_speed"
    TORQUE = "torque"
    CONTACT = "contact"  # an external torque, or a reference too far from where the arm is held
    WORKSPACE = "workspace"
    COLLISION = "collision"
    SELF_COLLISION = "self_collision"
    TRACKING_ERROR = "tracking_error"
    DEADLINE = "deadline"  # the filter was called too late, or took too long
    SOLVER = "solver"  # the follower or the velocity program failed
    RECOVERY = "recovery"  # outside a limit or margin: only what does not lower it, at reduced speed
    LATCHED = "latched"  # stopped until somebody resets
    INTERNAL = "internal"  # a fault of the filter itself
