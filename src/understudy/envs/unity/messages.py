"""The messages of the ML-Agents wire protocol (communicator 1.5.0), described here field by field.

The classes are made at run time from the table below: generated code of old compilers does not load with current
protobuf. What a peer sends beyond the table is kept out of sight, as protobuf does with all fields it does not know.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from understudy.errors import missing_extra

PACKAGE = "communicator_objects"
METHOD = f"/{PACKAGE}.UnityToExternalProto/Exchange"
COMMUNICATION_VERSION = "1.5.0"
PACKAGE_VERSION = "1.1.0"
"""Unity compares it with the versions of the Python package that it knows, so it names one of those."""
STEP, RESET, QUIT = 0, 1, 2
STATUS_OK, STATUS_QUIT = 200, 400
PNG = 1

# Number, kind and name of every field; ``*`` marks a repeated one, ``map`` a map from strings.
_TABLE: dict[str, str] = {
    "AgentActionProto": "6 float* continuous_actions, 7 int32* discrete_actions",
    "FloatData": "1 float* data",
    "ObservationProto": "1 int32* shape, 2 int32 compression_type, 3 bytes compressed_data, 4 FloatData float_data, "
    "5 int32* compressed_channel_mapping, 6 int32* dimension_properties, 7 int32 observation_type, 8 string name",
    "AgentInfoProto": "7 float reward, 8 bool done, 9 bool max_step_reached, 10 int32 id, 11 bool* action_mask, "
    "13 ObservationProto* observations, 14 int32 group_id, 15 float group_reward",
    "ActionSpecProto": "1 int32 num_continuous_actions, 2 int32 num_discrete_actions, 3 int32* discrete_branch_sizes",
    "BrainParametersProto": "7 string brain_name, 8 bool is_training, 9 ActionSpecProto action_spec",
    "UnityRLCapabilitiesProto": "1 bool baseRLCapabilities, 2 bool concatenatedPngObservations, "
    "3 bool compressedChannelMapping, 4 bool hybridActions, 5 bool trainingAnalytics, "
    "6 bool variableLengthObservation, 7 bool multiAgentGroups",
    "HeaderProto": "1 int32 status, 2 string message",
    "UnityRLInitializationInputProto": "1 int32 seed, 2 string communication_version, 3 string package_version, "
    "4 UnityRLCapabilitiesProto capabilities, 5 int32 num_areas",
    "UnityRLInitializationOutputProto": "1 string name, 2 string communication_version, 3 string log_path, "
    "5 BrainParametersProto* brain_parameters, 7 string package_version, 8 UnityRLCapabilitiesProto capabilities",
    "ListAgentActionProto": "1 AgentActionProto* value",
    "ListAgentInfoProto": "1 AgentInfoProto* value",
    "UnityRLInputProto": "1 map:ListAgentActionProto agent_actions, 4 int32 command, 5 bytes side_channel",
    "UnityRLOutputProto": "2 map:ListAgentInfoProto agentInfos, 3 bytes side_channel",
    "UnityInputProto": "1 UnityRLInputProto rl_input, 2 UnityRLInitializationInputProto rl_initialization_input",
    "UnityOutputProto": "1 UnityRLOutputProto rl_output, 2 UnityRLInitializationOutputProto rl_initialization_output",
    "UnityMessageProto": "1 HeaderProto header, 2 UnityOutputProto unity_output, 3 UnityInputProto unity_input",
}  # enumerations travel as int32


class Messages(NamedTuple):
    """The classes that are used by name; the others are reached through their fields."""

    Message: Any
    AgentAction: Any


@lru_cache(maxsize=1)
def messages() -> Messages:
    """Return the message classes.

    Raises:
        UserError: protobuf is not installed, or is older than 5.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        get_class = message_factory.GetMessageClass
    except (ImportError, AttributeError) as error:
        raise missing_extra("protobuf", "unity", "a Unity scene") from error
    file = descriptor_pb2.FileDescriptorProto(name="understudy/ml_agents.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _TABLE.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            _add_field(message, *field.split(" "))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)

    def find(name: str) -> Any:
        return get_class(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))

    return Messages(find("UnityMessageProto"), find("AgentActionProto"))


def _add_field(message: Any, number: str, kind: str, name: str) -> None:
    field = message.field.add(name=name, number=int(number))
    field.label = field.LABEL_REPEATED if kind.endswith("*") or kind.startswith("map:") else field.LABEL_OPTIONAL
    kind = kind.rstrip("*")
    if kind.startswith("map:"):
        # On the wire a map is a repeated message of key and value; the option makes it a dictionary in Python.
        entry = message.nested_type.add(name=name[0].upper() + name[1:].replace("_a", "A") + "Entry")
        entry.options.map_entry = True
        _add_field(entry, "1", "string", "key")
        _add_field(entry, "2", kind.removeprefix("map:"), "value")
        kind = f"{message.name}.{entry.name}"
    scalar = getattr(field, f"TYPE_{kind.upper()}", None)
    if scalar is not None:
        field.type = scalar
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


def initialization(seed: int, num_areas: int) -> Any:
    """Return what the player is told first: the seed, and what this side can do."""
    message = messages().Message()
    message.header.status = STATUS_OK
    told = message.unity_input.rl_initialization_input
    told.seed, told.num_areas = seed, num_areas
    told.communication_version, told.package_version = COMMUNICATION_VERSION, PACKAGE_VERSION
    able = told.capabilities
    able.baseRLCapabilities = able.concatenatedPngObservations = able.compressedChannelMapping = True
    able.hybridActions = able.variableLengthObservation = able.multiAgentGroups = True
    return message
