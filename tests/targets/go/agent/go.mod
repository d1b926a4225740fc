module agent

go 1.19

require github.com/SkyAPM/go2sky v1.5.0

replace github.com/SkyAPM/go2sky => ./go2sky
