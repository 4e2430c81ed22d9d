package store

// OpenWith is Open on a disk that may fail.
var OpenWith = open

// IngestName is the name of an Ingest on disk.
var IngestName = ingestName
