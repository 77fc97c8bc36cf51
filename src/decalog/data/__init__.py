"""The way in for users' own data: look at a file, map its columns, import its history into the log.

frames      a CSV, a Parquet file or an Arrow-speaking frame as rows of text
mapping     the TOML mapping: columns → schema, read and checked
rows        one row of a file → what the schema's parser takes, or the reason why not
inspection  what a file holds, and a drafted mapping
importing   rows → records of the log, in the order in which they were known
sets        public sets that a package index carries
"""
