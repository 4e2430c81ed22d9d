package store

// OpenWith is Open on a disk that may fail.
var OpenWith = open

// EncodeRecord seals a record.
var EncodeRecord = encodeRecord

// IngestName is the name of an Ingest on disk.
var IngestName = ingestName
