-- Run once by PostgreSQL's image, when its volume is new: the registry keeps its schemas in a database of its own.
CREATE DATABASE registry;
