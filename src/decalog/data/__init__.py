"""The way in for users' own data: look at a file, map its columns, import its history into the log.

csvrows     a CSV, read so that a broken row costs itself alone
frames      a CSV, a Parquet file or an Arrow-speaking frame as rows of text
reading     a TOML table that remembers everything that is wrong with it
mapping     the TOML mapping: columns → schema, read and checked
values      the text of a cell → a value, exactly
rows        one row → what the schema's parser takes, or the reason why not
importing   rows → records of the log, in the order in which they were known
words       what users' columns are called, and what our schemas call it
inspect     what a file holds, a drafted mapping, and what it cannot give
fetch       public sets that a package index carries
"""
