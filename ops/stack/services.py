"""Composition: the services of one data folder, with their ports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.stack.kafka import KafkaService
from ops.stack.model import ModelService, cache_folder_of
from ops.stack.parts import KAFKA, MODEL, POSTGRES, REGISTRY
from ops.stack.ports import choose_port
from ops.stack.postgres import PostgresService
from ops.stack.registry import RegistryService
from ops.stack.state import read_ports, write_ports

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ops.settings import Settings, StackSettings
    from ops.stack.cache import Cache
    from ops.stack.launch import Service

CONTROLLER = "kafka_controller"


def make_services(settings: Settings, data_dir: Path, cache: Cache, parts: tuple[str, ...]) -> list[Service]:
    """Make the services of ``parts``; their ports are kept for the next time. Raises PortTaken."""
    stack = settings.stack
    ports = choose_ports(stack, read_ports(data_dir), parts)
    services: list[Service] = []
    if KAFKA.name in parts:
        services.append(
            KafkaService(
                folder=data_dir / KAFKA.name,
                cache_folder=cache.folder(KAFKA.name),
                jars=tuple(cache.jars(KAFKA.name)),
                port=ports[KAFKA.name],
                controller_port=ports[CONTROLLER],
                heap_mb=stack.kafka_heap_mb,
                group_wait_ms=stack.kafka_group_wait_ms,
            )
        )
    if REGISTRY.name in parts:
        services.append(
            RegistryService(
                folder=data_dir / REGISTRY.name,
                cache_folder=cache.folder(REGISTRY.name),
                port=ports[REGISTRY.name],
                heap_mb=stack.registry_heap_mb,
            )
        )
    if POSTGRES.name in parts:
        services.append(PostgresService(folder=data_dir / POSTGRES.name, port=ports[POSTGRES.name]))
    if MODEL.name in parts:
        services.append(
            ModelService(data_dir / MODEL.name, cache_folder_of(cache.root), port=ports[MODEL.name])
        )
    write_ports(data_dir, ports)
    return services


def choose_ports(stack: StackSettings, last: Mapping[str, int], parts: tuple[str, ...]) -> dict[str, int]:
    """Choose a port for each part, and one for Kafka's controller; ports of other parts stay as they were."""
    configured = {
        KAFKA.name: stack.kafka_port,
        REGISTRY.name: stack.registry_port,
        POSTGRES.name: stack.postgres_port,
        MODEL.name: stack.model_port,
    }
    names = [*parts, CONTROLLER] if KAFKA.name in parts else list(parts)
    names.sort(key=lambda name: not configured.get(name))  # so that no free choice takes a configured port
    ports = dict(last)
    taken: set[int] = set()
    for name in names:
        ports[name] = choose_port(
            name,
            setting=f"SLUICEGATE_STACK__{name.upper()}_PORT",
            configured=configured.get(name, 0),
            last=last.get(name, 0),
            taken=taken,
        )
    return ports
